// What the scheduler tells the memory model.
#pragma once

namespace machine {

void begin_block(int shared_bytes, int threads);
void end_of_interval();  // every thread has reached a barrier, or its end
void end_block();

}  // namespace machine
