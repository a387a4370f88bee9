"""Adapters to other libraries, one file a library; `fastce` itself imports none of them."""
