"""Serve one model to many users, independently of any front-end.

`engine` owns the model and queues the requests, `reply` passes the events of an answer to its consumer, `conversation`
checks, trims, reads and writes conversations.
"""
