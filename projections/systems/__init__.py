"""The source systems' own interfaces over the ledger: for those who move, before they use its own.

Each class has a system's operations under their names, and gives back what they gave back. A few lines each: the rules
are the ledger's, and what a system's way would lose is refused here as everywhere.
"""
