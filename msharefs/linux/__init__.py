"""The machine as the kernel shows it: system calls, /proc and /sys, read and never judged."""
