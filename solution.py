"""Starts the tq server: `python solution.py` is `tq serve`, with the same flags."""

from tq.cli.serving import serve

if __name__ == "__main__":
    serve()
