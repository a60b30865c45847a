"""What is measured around a program: time, memory, and the machine on which it ran."""
