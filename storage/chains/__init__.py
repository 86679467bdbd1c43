"""Volume chains: look, decide, prove, confirm, repair, answer."""
