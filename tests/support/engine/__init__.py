"""An engine of 3.5 in small: its XML, its reading of answers, its reactions to codes, and the order of its calls.

`wirexml` is the client library, `link` a connection, `reading` the classes that answers are read into, `reactions` what
a status code makes it do, `centre` a data centre with its database and `host` one of its hosts, `disk` a disk there,
`streams` its plain HTTP. Nothing here is lenient: where the engine's own code would throw, `reading.Broken` is raised.
"""
