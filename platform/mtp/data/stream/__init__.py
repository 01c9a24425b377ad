"""Where data meets Ray: text to prepared data sets (prepare), and prepared rows to training, the only use of ray.data.

Read tasks import this package in every Ray worker process, so it imports nothing by itself; take what you need from
its modules: `prepare`, `row_stream`.
"""
