"""The one thread a mesh owns: enrolment, certificate rotation, the xDS stream and the registration live in its event
loop.
"""
