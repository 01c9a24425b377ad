"""The only home of ray.data: text to prepared data sets (prepare), and prepared rows to training (train_dataset).

Read tasks import this package in every Ray worker process, so it imports nothing by itself; take what you need from
its modules: `prepare`, `row_stream`.
"""
