"""The whole cluster, broken piece by piece: `./dev drill` (root). docs/drill.md is the manual.

Five hosts in network namespaces with no way out: ns7c0, ns7c1 and ns7c2 of the design, real BIND on the last two, one
configuration file for all three; a host with a mail server; a client with dnsperf and the one-shot client. Each fault
is broken, seen to be noticed, mended, seen to be over; what it cost is told beside it.

`site` is the hosts and what can be done to them, `watching` what is seen, `faults` the list, `trial` one step of it,
`picture` the time line.
"""
