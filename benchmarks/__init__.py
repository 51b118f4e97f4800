"""How fast tq is, next to a Tornado handler that does nothing: `python -m benchmarks`.

__main__    the command line
scenarios   what can be run, by name
measure     which cells are run, in which order, and what is made of their samples
hidden      queues full of messages that cannot be received
storm       a million that end at once
systems     what is measured, one row each
load        what loads them: wrk, or a loader of our own
loader      that loader, in a process of its own
server      servers in processes of their own, and requests that are not measured
do_nothing  the do-nothing Tornado server
machine     what it ran on
report      the tables
"""
