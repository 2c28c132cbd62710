"""The repository: immutable packs, block trees and write-once restore points on a file system.

Holds no keys and needs none: what it stores is sealed by the movers on the proxy side. The format and its write
protocol stand in docs/repository-format.md.
"""
