"""The demonstration: two daemons, generated and real DICOM files, every kind of transfer.

Started with ``python -m demo``; ``demo.dataset`` and ``demo.daemon`` also serve the benchmarks.
"""
