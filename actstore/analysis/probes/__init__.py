"""Probes: trained, tested, judged against chance, kept in files, applied."""
