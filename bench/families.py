"""All families of rows, in the order in which they are measured. Used by `__main__`, and by the test of the report."""

from bench import bulk, growth, intake, large, memory, overload, ranking, saga

# Those that post other claims than of two lines come after `memory`, which is measured on the same web process.
FAMILIES = (intake, saga, ranking, memory, large, bulk, overload, growth)
SPECS = tuple(spec for family in FAMILIES for spec in family.SPECS)
