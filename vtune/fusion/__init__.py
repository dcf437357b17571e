"""Which trials are one program: jaxprs in, jaxprs out; nothing is trained here."""
