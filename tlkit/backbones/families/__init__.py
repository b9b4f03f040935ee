"""The families of networks that tlkit builds itself: a file and a literal table of rows for each."""
