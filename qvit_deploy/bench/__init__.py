"""Measuring files on a device, comparing measurements, and what is known about the device meanwhile."""
