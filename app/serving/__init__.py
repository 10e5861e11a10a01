"""Serve one model to many: conversations, their trimming, a queue, and answers as they come. Knows no front-end."""
