"""The plots of a report, a file each; every function returns an SVG element."""
