"""`make chaos`: faults of every kind against the whole service, and the count of what was lost or doubled.

Read in this order:

    schedule   seed -> the sequence of faults; pure
    topology   what runs: redis, store, edges, drains; each a `process`, tied by a `link`, on a `disk`
    faults     what each fault does to the topology, and how it is taken back
    clients    load, and the book of what clients were told
    probe      how long after a fault until a fresh event is answered and queryable
    verdict    the book against what queries return
    run        all of it in order, and the table

`inside` is what our own processes are started through: it steps their wall clock, and `sabotage` takes one
safeguard out of them. The product has no hook for any of this.
"""
