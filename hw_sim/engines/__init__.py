"""Two executions of an integer graph behind `taaf.hw_sim.engine.Engine`: torch (any graph, the oracle) and events (CPU)."""
