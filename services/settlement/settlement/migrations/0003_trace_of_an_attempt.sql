-- Another attempt is asked for in a trace of its own: its calls and its result belong there.
grant update (traceparent) on settlement to settlement_app;
