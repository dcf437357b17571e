"""Which equal, faster equations stand in for the traced ones?"""
