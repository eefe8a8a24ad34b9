"""Where bytes come from: one primary over HTTP, its secret, its certificates.

Knows HTTP and what each answer means. Must not know how entries are applied or stored.
"""
