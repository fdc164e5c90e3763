"""Apache TVM: import, schedules, tuning, engines that load without the compiler."""
