"""The alert process: what is due, the words, the queue on disk, delivery, all together."""
