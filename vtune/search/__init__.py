"""Which values does a trial try, and how long may it train?"""
