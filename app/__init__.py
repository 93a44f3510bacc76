"""eventbunker: event tracking that a team hosts itself and can trust. This docstring is the tour.

The promise: a 200 means the event is on disk; it is in query results once, about a second later, whatever
crashed in between; and no event that was accepted disappears without a named outcome.

Read an event's life from socket to table in this order. Before the app stands a server: workers.edge starts
it, workers.edge_hypercorn (edge_connections, edge_http1, edge_head) or workers.edge_uvicorn (…_protocol,
…_requests) reads the socket, workers.edge_exchange gives the app a request and takes its answer
(workers.edge_answer: the lines it begins with).

     1  app.gate        request id, CORS, a bound on requests in flight
     2  app.main        which route leads where
     3  app.track       POST /post: key, body, validation, append, answer: a straight line
     4  app.registry    a presented key -> a Grant, from memory (app.accounts writes what it reads)
     5  app.event       every rule of the event contract (app.event_problems names what is wrong)
     6  app.stream      the request with its events, the entry, the keys (app.stream_scripts: every change
                        of them); app.context is what is known of whoever sent it
     7  app.append      group commit: one append for all who wait; then the 200 (app.producer: the connection)
        app.spool       while Redis is away, full or slow: this edge's own disk; app.replay empties it
     8  workers.drain   the loop of the partition's one owner (app.partition is its end of the stream);
                        workers.sharing says who that is, app.layout how many partitions there are
                        (app.queues: which other queues Redis holds), app.presence who else is at work and
                        what its clock says (app.redis_clock);
                        workers.reading makes the next batch while the store takes the one before
     9  workers.event_ids, workers.verdict   copies of stored events, told by their ids
    10  workers.plan    what is inserted under which token, written down before it is done
    11  app.enrich, workers.rows   record -> row (workers.items: those of a batch)
    12  workers.insert  carries the plan out: exactly once, or a dead letter
    13  app.store       the one ClickHouse client

Many events in one request (POST /batch) take each step together: app.batch_body finds them in the body,
app.batch is the line, app.event_columns applies the rules (app.event_alike: to those of one look, faster, and
without cutting them apart), app.batch_keep appends them, app.batch_verdict says what is wrong with which.
app.inflate unpacks the bodies of both, app.room bounds what all batches hold together.

And a question's way back:

    14  app.read        POST /v1/query/json
    15  app.query_request   what can be asked, as types: validation, /openapi.json and reference in one
        app.query       the request -> a Query (its parts: app.filters, app.computations, app.time_period)
    16  app.scope       what the key may see: one project, perhaps one customer, nothing that was erased
        app.sql         a Query within a Scope -> SQL and parameters (app.sql_filters: the WHERE of all reads;
                        app.sql_conditions, app.sql_functions, app.sql_buckets: what each word means)
                        (app.fill, app.sql_fill: empty buckets; app.cursor: where a page of events begins)
        app.ask         the way to the store, within limits
        app.answer      rows -> the answer, in the format that `Accept` names (app.formats)
        app.analyse     questions about one event after the other, and what there is: app.funnel, app.cohorts,
                        app.timeline, app.seen_fields; app.findings asks them
        app.iframe      the answer as a page with a chart (app.chart_request, _data, _svg, _page); app.embeds
                        keeps the tokens that embed one (app.embed_token)

Events leave by the thousand, too: `app.export` (what is asked: app.export_request; a page at a time:
app.export_pages, app.export_sql; the file: app.export_writers, app.export_text, app.export_parquet).
And as they arrive: `app.tail` (app.tail_reader reads the stream beside the drain, by app.tail_follower;
app.shown is an event that is no row yet, app.match whether it is wanted, app.tail_listener whoever waits
for it, app.tail_frames the wire). app.streaming sends both, and every large answer (app.unsent bounds what
waits to be taken); app.places bounds how many there are. What takes Python long app.aside does in threads.

What became of an event is told by

    17  app.watermark   to those who wait for it (`?ack=stored`; app.in_flight: was it erased meanwhile?)
    18  app.receipt     to those who ask, wherever it is (`app.whereabouts`)
    19  app.dead        for what was set aside: list, show, replay, purge

And it is taken back by

    20  app.erase       POST /v1/delete/events: a tombstone (app.tombstone, app.erasures), which every query
                        applies from then on, and every drain (workers.tombstones)
        workers.eraser  rows, dead letters and files that it means are gone (workers.erase_round), and
                        that is proven (workers.erase_proof)

or goes by itself, when it is older than events are kept (app.retention: hidden; workers.retention: dropped).

Files of events come in by another door, through the same rules: `workers.import_run`.

How much a project has written is told by `app.manage_usage` (app.usage), from rows and ledger.

What watches over both: `app.ledger` (every event has one fate, counted with the act itself),
`workers.verify` (the ledger against the store) and `app.canary` (an event of our own, all the time).

Who may import whom (kept by tests/test_imports.py): the leaves (`errors`, `grant`, `timestamp`, `event`,
`query`, `sql`, `settings`, `metrics`, `stream` and what they are split into) import only leaves. Redis is
imported by `producer`, `partition`, `layout`, `queues`, `presence`, `dead`, `watermark`, `whereabouts`,
`ledger_reader`, `erasures`, `embeds`, the registry's modules and `redis_client`; httpx by `store` alone; chDB
by the embedded store alone. Handlers (`track`, `batch`, `read`, `analyse`, `iframe`, `export`, `tail`,
`receipt`, `manage`, `manage_dead`, `manage_usage`, `erase`, `probes`) never import one another. `app` imports
no server, and never `workers`.
"""
