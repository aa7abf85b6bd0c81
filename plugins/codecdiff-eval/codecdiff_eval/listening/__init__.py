"""`codecdiff listen`: a blind listening test as one offline page, and what its votes say.

`systems` matches the clips of folders, `builder` writes the page, `votes` analyzes what raters export from it.
"""
