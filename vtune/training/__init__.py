"""How are many trials trained at once?"""
