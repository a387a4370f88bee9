"""Threads, forks, interrupts, caches and stacks: most of them in processes of their own."""
