"""The HTTP client of the wire lane: threads with a selector and many non-blocking sockets, batches in and results out.

HttpTransport (event loop) ──exchanges──► Lane (thread) ──► Connection (socket) ──► server
          ▲                                                        │
          └───────────── results, one wake-up for many ◄───────────┘
"""
