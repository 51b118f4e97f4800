"""How fast tq is, next to a Tornado handler that does nothing and to other queues: `python -m benchmarks`.

__main__    the command line
scenarios   what can be run, by name
measure     which cells are run, in which order, and what is made of their samples
hidden      queues full of messages that cannot be received
storm       a million that end at once
peers       other queues that are durable
systems     what the first four measure, one row each
adapters    what the last one measures, one row each
load        what loads them: wrk, or a loader of our own
loader      that loader, in a process of its own
wires       the protocols that it speaks
server      servers in processes of their own, and requests that are not measured
do_nothing, fastapi_sqlite, raw_lmdb  what tq is compared with, where it is ours
machine     what it ran on
report      the tables
chart       a run of `peers` as a picture

By themselves: `scale` (many messages, many who wait), `profile` (where the time goes), `own` (the program alone) and
`watched` (metrics and the access log).
"""
