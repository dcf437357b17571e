"""The tests of vtune."""
