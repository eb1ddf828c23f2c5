"""The editors that MALMEN is compared with, and what MEMIT needs besides.

An editor that works token by token shows in one screen how it differs from `malmen.malmen`.
"""
