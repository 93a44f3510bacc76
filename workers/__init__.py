"""The processes behind the edge, and what happens when one of them dies.

    drain_process    stream -> store: its share of the partitions (`sharing`), each by one owner (`drain`)
    embedded_store   the ClickHouse engine behind ClickHouse's HTTP interface; a server replaces it
    import_main      files -> stream, by hand: `eventbunker import`
    supervisor       starts and restarts all of them: `make run-edge`

Crash-only: `kill -9` at any line is safe, a graceful stop only saves time.

    who dies             what is true then                     who mends it
    edge                 no answer was sent, or the event is   the client repeats; the group's
                         in Redis                              sequence number makes it one
    drain, before plan   nothing happened                      the next owner reads again
    drain, after plan    some rows may be stored               the next owner counts them, stores the rest
    drain, before ack    all rows are stored                   the next owner counts them and acknowledges
    store, in an insert  the token may be logged without rows  the drain counts, and sends under a new token
    import, in a piece   its end is written down, and it       running it again: the piece is sent under
                         is in Redis or not                    its number once more, then the rest
    drain, erasing       the round is in Redis; its rows may   another drain goes on with it: a step that
                         be gone or there                      is repeated changes nothing
    redis                what it answered is in its AOF        it reads the AOF; edges and drain wait for it
"""
