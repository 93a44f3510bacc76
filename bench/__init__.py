"""Measuring eventbunker, beside what the server costs alone and beside a peer. `make bench`; start reading here.

    __main__            the command line; runs the parts, writes the report
    parts               the list of them: each module measures, and renders what it measured
    post, batch         alternating rounds of subjects (`subjects`, `versus`) under wrk (`wrk`, `load.lua`)
    fresh, growth,      the whole service (`whole`) at a steady rate (`sender`)
    memory, crash
    drain_part          the drain beside the bare engine (`drain`)
    wanted              what the figures should be, compared with what they are
    report, plots       docs/performance.md between its markers; docs/performance/*.svg
    results             docs/performance/results.json, of which the report is made

`floor` and `peer/` are what we are compared with. `catch_up`, `outage` and `event_id` are longer, and run by
themselves. Processes are started by `process`, which ends them whatever happens.
"""
