"""What makes data unreadable and unforgeable: keys, slots, records, tree nodes and points.

Pure: no files, no sockets, no clocks. Used by movers (records), by the repository (headers and nodes, without
keys) and by the manager (keys, slots, points).
"""
