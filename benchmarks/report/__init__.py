"""Finished runs as a page to look at: tables, charts, pictures, and where each number is from.

The page is one HTML file with the folders `tables` and `pictures` beside it. It needs no server, no
network and no script, and the same records give the same bytes.

    python -m benchmarks.report runs -o report
"""
