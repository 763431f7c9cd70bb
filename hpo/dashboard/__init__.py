"""The dashboard: runs compared on a web page; reads only."""
