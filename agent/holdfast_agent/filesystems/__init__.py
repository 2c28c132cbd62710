"""What of a disk nobody needs: free blocks of file systems and the content of swap, read-only and never guessed.

A restore point without them is smaller and quicker to make, and a restored disk has zeros there. Every step is from
what checksums vouch for; at the first doubt a whole volume counts as used, with the reason.
"""
