"""tq: a durable message queue that speaks HTTP."""

__version__ = "0.1.0"
