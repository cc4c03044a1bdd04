"""The machine as the kernel shows it: system calls, /proc, /sys and the settings of services.

Each thing is read in one place, as bytes, and never judged. Everybody may ask here; this package
asks nobody.
"""
