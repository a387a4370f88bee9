"""fastce timed against other libraries and against the machine's own limits: ``python -m bench``.

A plan lists cases (an operation on a shape, dtype and layout) and contenders. Each contender has a process, a worker;
the runner gives the workers the turn. A finished run is a table with one record a measurement, from which the reports
are made. Imports go one way, each module imports only modules before it:

    cases -> formulas -> inputs -> contenders -> oracle -> network -> worker -> process -> neighbours -> data -> runner
    -> plans -> tables -> bars -> style -> plots -> report -> busy -> __main__

The modules in ``contenders`` have the calls of one library each; only the process that makes these calls imports them.
"""
