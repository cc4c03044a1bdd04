"""The client library: regions as a Python program sees them.

It talks to a mount as any program would: files, ioctls, extended attributes. Programs import
`msharefs`, which names what is public.
"""
