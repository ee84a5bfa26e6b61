"""What spans services: start until ready, trigger and follow, verify, report the state of it all."""
