"""What is asked and when: workload files, prompt sets, arrival processes."""
