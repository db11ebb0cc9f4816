"""The speedrun: the quality of the paper's recipe in less training, every record with its settings, seeds and evidence.

tracks    what is run: corpus, model, target or budget
recipes   what is changed in the paper's recipe, each change alone or several together
runner    trains and scores a recipe on a track; every number has a record
table     renders the records of a track
"""
