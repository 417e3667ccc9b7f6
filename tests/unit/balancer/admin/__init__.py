"""The admin process, asked over real sockets on uvloop."""
