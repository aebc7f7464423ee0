"""The traffic generator and judge behind `vm-test/traffic.py`.

Pure, the time and the frames being arguments: `words`, `codecs`, `addresses`, `frames`, `schedule`, `differences`,
`accounts`, `judge`, `neighbours`, `signalling`, `report`. Around them: `control` (commands), `interface` (AF_PACKET),
`host` (what this machine says of its interfaces and addresses), `run` (the loop), `command` (what a person types).
"""
