"""Handles the messages of the queue `orders` until SIGTERM; see ../client.md."""

import logging
import signal

import tq

logging.basicConfig(level=logging.INFO)

with tq.Client() as client, client.consume("orders", visibility_timeout=30) as messages:
    signal.signal(signal.SIGTERM, lambda *_: messages.stop())
    for message in messages:
        try:
            print("handling", message.content, flush=True)
        except Exception:
            logging.exception("message %d", message.id)
            client.release(message, delay=60)  # again in a minute; the queue's dead_letter bounds how often
