"""The status page in a real Chromium, before the real admin process's main and before a real ns7."""
